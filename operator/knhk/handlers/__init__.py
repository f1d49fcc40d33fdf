"""The operator's process on a cluster: kopf sees the changes of our kinds and puts them into the feed; everything else is the controller's.

python -m knhk.handlers [--home FOLDER] [--kubeconfig FILE]
"""
