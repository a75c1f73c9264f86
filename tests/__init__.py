"""The tests of mailbridge: unit, contract, integration and end-to-end."""
