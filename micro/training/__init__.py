"""From the data set to the generator's weights, and rounds of active learning."""
