-- What is in it must be folded first: it is nowhere else.
DROP TABLE journal;
