"""What goes on now, for people: `history` and `board` say what is shown, purely; the live page (`page`, `feed`), the
terminal's view (`screen`) and the status line only show it."""
