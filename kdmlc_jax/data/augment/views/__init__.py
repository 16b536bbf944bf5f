"""Two augmented views of an image, for contrastive learning."""
