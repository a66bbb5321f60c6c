use super::*;

#[test]
fn what_is_committed_is_what_the_code_and_the_tests_make() {
    check().unwrap();
}
