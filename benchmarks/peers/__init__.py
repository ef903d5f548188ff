"""The code of the frameworks' users, on copies of our inputs and weights. Each takes its framework as given."""
