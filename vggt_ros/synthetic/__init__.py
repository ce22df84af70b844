"""A synthetic world with exact answers, for the demo and the tests."""
