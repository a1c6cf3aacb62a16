"""What an experiment costs, from the models' shapes."""
