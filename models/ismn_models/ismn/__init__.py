"""ISMN, the Instance Sparsity Mapping Network (Haque and Kang 2021): a defence that regenerates suspicious images."""
