"""The study's package, which every chapter imports: data, networks, techniques, the coded file, settings, tables."""
