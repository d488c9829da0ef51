-- A payment remembers which of several nodes made its invoice, because only that one can tell whether it was paid.

-- The name of the receiver; nothing for rows of an older farebox.
ALTER TABLE payments ADD COLUMN receiver TEXT NOT NULL DEFAULT '';
