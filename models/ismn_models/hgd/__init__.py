"""HGD, the high-level representation guided denoiser (Liao et al., CVPR 2018; broken by Athalye and Carlini 2018)."""
