"""TRADES (Zhang et al., ICML 2019, arXiv 1901.08573): accuracy and robustness as two terms of one loss."""
