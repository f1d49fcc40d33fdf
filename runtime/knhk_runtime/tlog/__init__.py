"""The log of formats/log.md as its writer and its readers hold it: trees and tiles, notes, the folder, its audit."""
