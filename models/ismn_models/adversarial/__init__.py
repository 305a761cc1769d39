"""Adversarial training (Madry et al., ICLR 2018), and its fast form (Wong, Rice and Kolter, ICLR 2020)."""
