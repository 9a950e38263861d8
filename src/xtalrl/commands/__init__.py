"""What a person types, and the checks and answers behind it."""
