"""A defence in the style of DDSA (Bakhti et al., IEEE Access 2019): a denoising sparse autoencoder."""
