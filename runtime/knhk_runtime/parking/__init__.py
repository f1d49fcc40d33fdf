"""Requests that the tables could not decide: judged here while the client waits, or later under a decision id (formats/agent.md)."""
