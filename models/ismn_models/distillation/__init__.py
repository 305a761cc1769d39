"""Defensive distillation (Papernot et al., IEEE S&P 2016; broken by Carlini and Wagner, IEEE S&P 2017)."""
