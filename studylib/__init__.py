"""The study's package, one noun a folder; each imports only those before it in this list.

data: Images, text and what is learnt of them: data sets, augmentation, tasks, scores. Every chapter.
networks: Networks and their layers: built from a spec, in floats or int8, sliced, measured. Every chapter.
disk: Files on disk: written whole, checked when read; models, and where numbers come from. Every chapter.
training: The training loop: recipe, step, checkpoint, deadline. Chapters 1 to 11, 13 and 14.
descent: Several objectives at once: objectives, aggregators of gradients, steps. Chapters 1, 6, 8, 10 and 11.
coding: A network as one small file and back: range coder, codec, sizes. Every chapter.
techniques: A technique a module, each with ``apply``, more in docs/techniques.md. Chapters 1 to 5, 8 to 11, 13 and 14.
tree: Combinations: names, nodes on disk, table, published rows. Every chapter.
results: What rows say: statistics, claims, verdicts, tables, and the chapter that shows them. Every chapter.
plots: Figures, a file per chapter, named for its key, each drawn from a table of rows. Chapters 1 to 14.
experiments: What chapters measure, in files named for their keys: settings, rows, claims. Chapters 1 to 11 and 14.
screening: Sparse convex models that discard features while they train, on many workers. Chapter 12.
federated: Clients that train a small network together, a large teacher beside them. Chapter 13.

``settings`` holds settings as typed records, for all of them.
"""
