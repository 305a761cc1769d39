"""PRN (Akhtar, Liu and Mian 2018): a perturbation rectifying network before the classifier, and a detector."""
