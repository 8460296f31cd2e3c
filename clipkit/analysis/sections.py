"""The sections of a page, in their order, and the question that each answers."""

BETTER, RIGHT, MISTAKES, KNOWN = "better", "right", "mistakes", "known"
CAPTIONS, PROBABILITIES, CHANGES, MADE = "captions", "probabilities", "changes", "made"
# Where attributes were held against the errors
EXPLAINED = "What does it confuse, and which attribute explains it?"
SECTIONS = {
    BETTER: "Which model is better?",
    RIGHT: "How often is it right?",
    MISTAKES: "What does it confuse?",
    KNOWN: "What does it know?",
    CAPTIONS: "Do captions and images find each other?",
    PROBABILITIES: "Are its probabilities right?",
    CHANGES: "What changes with temperature, shots, prompts and layers?",
    MADE: "How was this made?",
}
