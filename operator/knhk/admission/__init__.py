"""Admission: what a cluster's API server asks before it stores an object. Replicated, without state, and never needed to read, to delete
or to work outside of the namespaces that asked for it. Parses and lowers, never compiles.

python -m knhk.admission serve | manifests
"""
