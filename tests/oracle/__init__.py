"""Test oracle: what sources and payload mean, straight from RDF. It knows neither the plan nor the
lowering: mappings are read from YAML or RML by a naive interpreter, shapes are judged by pySHACL,
ASK rules by rdflib, access rules by a few lines of Python over the graph."""
