"""Image files: their pixels, many of them as one array, and copies among them."""
