DROP TABLE usage_hours;
DROP TABLE relays;
