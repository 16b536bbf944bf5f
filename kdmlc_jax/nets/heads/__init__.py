"""Small networks on the features of another: no families of `nets.build`."""
