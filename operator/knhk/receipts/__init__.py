"""The aggregated API server of `receipts.knhk.dev`: decision receipts as objects, from an index over the log. It stores nothing."""
