DROP TABLE samples;
DROP TABLE series;
DROP TABLE documents;
DROP TABLE starts;
