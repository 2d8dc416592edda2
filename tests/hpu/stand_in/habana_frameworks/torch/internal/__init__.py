"""The plugin's insides, as far as anybody uses them."""
