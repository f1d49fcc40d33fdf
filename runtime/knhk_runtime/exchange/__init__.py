"""What the control plane wants, checked before anything of it reaches Envoy."""
