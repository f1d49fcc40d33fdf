"""The builder: from orders of the operator to signed packs in the registry. It holds the keys build and data, keeps nothing, and reaches
the registry and nothing else.

python -m knhk.builder --keys FOLDER --registry URL
"""
