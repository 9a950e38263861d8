"""A campaign: rounds of designing, screening and SCFs, from a wanted gap to confirmed crystals and what they cost."""
