"""Between the folders of an agent and the operator's exchange (formats/exchange.md): what is desired comes in, statistics go out."""
