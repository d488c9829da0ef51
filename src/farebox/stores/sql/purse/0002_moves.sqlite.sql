-- A purchase is held, then captured or released, and never anything after that.
CREATE TABLE draw_moves (
    from_state TEXT NOT NULL,
    to_state TEXT NOT NULL,
    PRIMARY KEY (from_state, to_state)
);

CREATE TRIGGER purchases_move AFTER UPDATE OF state ON purchases
WHEN NEW.state <> OLD.state AND NOT EXISTS (
    SELECT 1 FROM draw_moves WHERE from_state = OLD.state AND to_state = NEW.state
)
BEGIN
    SELECT RAISE(ABORT, 'this move of a purchase is not in the table of moves');
END;
