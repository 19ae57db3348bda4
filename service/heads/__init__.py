"""Contains classifiers: a head turns the vector and the characters of a text into probabilities of labels."""
