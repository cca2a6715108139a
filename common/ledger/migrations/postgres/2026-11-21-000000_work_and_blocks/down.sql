DROP TABLE blocks;
DROP TABLE work_hours;
DROP TABLE work_minutes;
DROP TABLE servers;
