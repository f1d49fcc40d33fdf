"""The C hot library, the Envoy shim and their cffi binding, which only binds."""
