"""What the frameworks' users would write, on copies of our inputs and weights. Each takes its framework as given."""
