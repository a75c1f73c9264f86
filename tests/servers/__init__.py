"""Real servers and scripted real-socket fakes, each started for one run of the tests."""
