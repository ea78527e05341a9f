"""A few openings and endings for tests that need some text.

They are not in conftest.py: the notebooks have a conftest.py too, and `import conftest` would find either.
"""

OPENINGS = ["Mia found a kite in the park.", "Tom wanted a red ball.", "Ana was at the pond.",
            "One day a fox met a small bird.", "Ben had an old drum."]
ENDINGS = ["She gave it to Leo. They were happy.", "He looked for it all day and found it at last.",
           "It was raining. She went home and had soup.", '"Come and play!" said the fox.', "He played it."]
