"""Compiler: RDF sources to guard plan, C and documents; pure, the same input gives the same bytes."""
