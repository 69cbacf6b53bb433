"""What the drill and its tests call things; read in both environments."""

PROMPTS = 6
STEPS = ("first", "again", "restored", "failing", "spent", "away")
RUN = "my-run"
