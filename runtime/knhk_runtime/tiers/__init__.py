"""The cold tier: what the R1 tables of a pack cannot decide is decided here, from the GuardPlan, by the same rules."""
