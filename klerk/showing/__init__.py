"""A design for people: described, drawn, checked and advised on."""
