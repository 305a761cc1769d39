"""The model core of ismn: classifiers, defences, their losses and training stages. Torch only."""
