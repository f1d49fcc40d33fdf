"""What runs beside an application: ring, outbox, tiers, exchange; light imports."""
