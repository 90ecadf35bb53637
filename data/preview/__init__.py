"""`adpa data`: preview of a preference file, and conversion to the canonical form."""
