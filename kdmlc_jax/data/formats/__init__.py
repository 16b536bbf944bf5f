"""Files of foreign formats, read with errors that name them; what they say is checked before it is believed."""
