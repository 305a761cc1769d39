"""MagNet (Meng and Chen, CCS 2017): detectors reject far inputs, an autoencoder reforms near ones."""
