"""LAD, latent adversarial defence: training on boundary-guided images (Zhou, Tsang and Yin 2019, arXiv 1907.07001)."""
