"""Compiler: RDF sources to guard plan, C and documents.

Pure: the same input gives the same bytes.
"""
