"""MagNet against a gray-box attacker: a pack of different autoencoders, one drawn for each image."""
