"""The authors' own forms of methods, where they differ from what their files here read: `method.variant=release`."""
